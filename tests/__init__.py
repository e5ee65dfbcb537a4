import pytest

pytest.register_assert_rewrite("tests.cni", "tests.iproute")
