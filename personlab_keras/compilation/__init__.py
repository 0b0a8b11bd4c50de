"""Compiling the training step for an accelerator that need not be there, and reading what its
compiler says: memory, operations, bytes, collectives.
"""
