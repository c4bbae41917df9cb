"""Ways to act: what a network's outputs mean, and how plans of several actions are carried out."""
