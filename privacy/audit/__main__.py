"""`python -m privacy.audit [--quick] [--json FILE]`"""

import sys

from privacy.audit.run import main

sys.exit(main())
