"""Off-policy learners, one file each."""
