"""Networks of this package's layers: layers, losses, LeNet-5, and the check of all gradients."""
