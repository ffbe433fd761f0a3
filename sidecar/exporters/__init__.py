"""What is written for others to read: files and metrics in formats that are not ours."""
