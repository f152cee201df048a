"""Integer program in, tensor operations that TFHE has out, and what they will cost."""
