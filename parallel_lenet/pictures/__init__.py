"""Pictures of digits, of any kind and size, made ready for a network as MNIST was made."""
