"""Networks, distributions and the maps between spaces and vectors."""
