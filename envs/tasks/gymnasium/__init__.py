"""Ports of Gymnasium's MuJoCo tasks."""
