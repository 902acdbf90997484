"""What a run will take, before anything is started: devices, memory, batches. No Ray, no weights."""
