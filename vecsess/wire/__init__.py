"""What both sides of the pipe share; the workers import this and nothing else of vecsess."""
