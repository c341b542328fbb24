"""What several tricks use: perturbed weights, separate gradients, averaged weights."""
