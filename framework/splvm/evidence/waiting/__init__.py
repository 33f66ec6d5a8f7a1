"""Who waits for whom: the table of waits, the graph made of stacks, and which list of tasks to take. Pure."""
