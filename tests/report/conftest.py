from tests.fakes import azurite


def pytest_configure(config):
    azurite.register(config)
