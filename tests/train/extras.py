"""Why the tests in this folder are skipped, where they are."""

NEEDS = "needs the extras train and sb3: run `make test-train`"
