"""What a guest leaves, read: one module a format, from text to typed values. Pure."""
