"""Neural fields: densities that are functions of points, their encodings and networks."""
