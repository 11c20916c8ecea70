"""Sessions: which verb may be called when, one checked step of all, Gymnasium's verbs over it.

Here a transition is checked and the books of episodes are kept.
No process is started here, and no policy is asked.
"""
