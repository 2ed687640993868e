"""A host with a file of two lines."""

import pytest

from tests.conftest import Boot
from tests.machines import GUEST_2X2X2
from tests.sim.daemon.stand import DOCUMENTED
from tests.sim.host import Host


@pytest.fixture
def host(boot: Boot) -> Host:
    host = boot(GUEST_2X2X2)
    host.configure(**DOCUMENTED)
    return host
