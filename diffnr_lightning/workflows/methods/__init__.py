"""What a method is given and what it is: solvers, samplers, and the scene that DiffNR optimises."""
