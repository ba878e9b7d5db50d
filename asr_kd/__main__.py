import sys

try:
    from asr_kd.cli import main
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(main())
