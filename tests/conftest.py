"""Tests see nothing that the shell which starts them has set for other work."""

import os
import signal

from hypothesis import settings

from avion_core.environment import FOREIGN_VARIABLES

for name in ("SNAKEMAKE_PROFILE", "OPENAI_API_KEY", *FOREIGN_VARIABLES):
    os.environ.pop(name, None)
# Servers of tests are on this machine, which a proxy does not reach.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# What `nohup` and a shell's `&` ignore is heard by the programs that tests start.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
# A busy machine is no failure.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
