"""Models spread over several machines, by llama.cpp's RPC backend."""
