"""Why some tests stay on one server, whatever shape ``ASYNQPY_TEST_REDIS`` gives the common Redis.

That one server speaks TLS where the common one does. It does not for marks that are ``plain``.
"""

from __future__ import annotations

import pytest

PROXIED = pytest.mark.single_redis("a proxy stands before one server")
OVERHEARD = pytest.mark.single_redis("what goes over its connection is read", plain=True)
COUNTED = pytest.mark.single_redis("what one server counts is looked at")
WITHOUT_REPLICAS = pytest.mark.single_redis("about a server without replicas")
PROXIED_PLAIN = pytest.mark.single_redis("a proxy stands before one server", plain=True)
ITS_SETTINGS = pytest.mark.single_redis("settings or users of one server are changed", plain=True)
ITS_DATABASES = pytest.mark.single_redis("a cluster has one database", plain=True)
ONE_CONNECTION = pytest.mark.single_redis("one connection to one server, step by step")
CALLERS_CLIENT = pytest.mark.single_redis("a client of the caller's, for one server", plain=True)
