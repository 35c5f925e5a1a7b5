import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for shared_boosting.py, under --import-mode=importlib
