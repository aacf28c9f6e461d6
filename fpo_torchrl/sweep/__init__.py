"""Many runs: grids and searches that go on after any interruption, on one machine or on a SLURM cluster."""
