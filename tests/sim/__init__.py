"""The simulator: the real agent and coordinator on virtual time, their four ports simulated."""
