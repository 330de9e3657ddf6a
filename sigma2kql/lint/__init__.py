"""lint: judging rules beyond what compiling says."""
