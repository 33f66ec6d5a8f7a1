"""Kernels, SPL and the guest's image, built once from their inputs and kept in the store."""
