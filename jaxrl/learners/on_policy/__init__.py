"""On-policy learners, one file each."""
