"""What a command computes on: devices, memory, and processes that work side by side."""
