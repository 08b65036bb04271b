"""What an output folder holds, and how a run begins and ends in one."""
