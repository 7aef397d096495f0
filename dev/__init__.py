"""What developers and tests run: a real control plane, real registries, images made of bytes.

No part of the product.
"""
