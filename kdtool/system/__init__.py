"""What the operating system gives: folders, locks, disks and child processes."""
