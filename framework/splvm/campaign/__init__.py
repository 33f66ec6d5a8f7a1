"""Many runs: matrices, series, searches and nights, on this machine or on others."""
