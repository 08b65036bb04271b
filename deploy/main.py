"""What a Flex Template's launcher starts: the parameters of the launch become a run.

python main.py --input=gs://BUCKET/photos --output=gs://BUCKET/embeddings --runner=...
"""

import sys

from pipeline.__main__ import main
from pipeline.template import run_arguments

# Workers may import this file, and must not launch anything then.
if __name__ == "__main__":
    sys.exit(main(run_arguments(sys.argv[1:])))
