"""What touches the machine: files that ship with the package, files that are read and written, child processes."""
