"""Training with TRL.

OpenMP's threads sleep while they wait for each other. By default they spin, so that two trainings on the same cores keep
each other from working. The number of threads, and with it every sum, stays. It is read once, when torch is loaded.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
