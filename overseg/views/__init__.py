"""What people look at: nothing here changes a volume."""
