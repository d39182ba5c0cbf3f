"""Networks that take the noise out of images in many steps: their schedules, folders and foreign checkpoints."""
