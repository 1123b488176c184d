"""A coordinator and hospitals that run for real on the loopback address: the tests' and the soak's federation.

Every process is one that a user starts, through the ``mmmed`` command. Only the patients are made up.
"""
