"""Property tests here have no deadline: a slow machine is not a wrong one."""

from hypothesis import settings

settings.register_profile("arithmetic", deadline=None)
settings.load_profile("arithmetic")
