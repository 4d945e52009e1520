"""What a training loop sees: `Loader`, its epochs, ranks, order and batches, and `ImageDataset` for a DataLoader."""
