"""One module for each scenario; each has a function that takes a `Run`."""
