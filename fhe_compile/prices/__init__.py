"""What bootstraps cost: chance of failure, Concrete's parameters, this machine's timings."""
