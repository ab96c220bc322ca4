"""Plain, slow and obviously right versions of the fast kernels."""
