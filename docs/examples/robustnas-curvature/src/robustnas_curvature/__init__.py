"""The metric curvature for robustnas."""
