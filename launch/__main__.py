"""The `slam-asr` command as a module, for launchers: `torchrun ... -m launch prep features ...`."""

import sys

from launch.command import main

if __name__ == "__main__":
    # The deepspeed launcher gives --local_rank; the environment says it too.
    sys.exit(main([argument for argument in sys.argv[1:] if not argument.startswith("--local_rank=")]))
