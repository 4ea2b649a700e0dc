"""The registry opens backends by URL; built-ins come through the same hooks as anyone else's."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.contracts.guard import GuardedSaveVolume, GuardedVolume
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry, SaveVolumeOptions, VolumeOptions, default_registry
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError


class Plugin:
    """What somebody else could install."""

    def __init__(self, scheme="mine"):
        self.scheme = scheme
        self.opened = []

    @hookimpl
    def replkit_register_volumes(self, registry):
        registry.add_volume_scheme(self.scheme, self.open_volume)

    @hookimpl
    def replkit_register_save_volumes(self, registry):
        registry.add_save_volume_scheme(self.scheme, self.open_save_volume)

    @hookimpl
    def replkit_register_transports(self, registry):
        registry.add_transport_scheme(self.scheme, lambda url: SimpleNamespace(url=url))

    def open_volume(self, url, options):
        self.opened.append((url, options))
        return MemoryVolume(options.size_bytes, block_size=options.block_size)

    def open_save_volume(self, url, options):
        self.opened.append((url, options))
        return MemorySaveVolume()


@pytest.mark.requirement("U1", "U4")
def test_a_plugin_opens_its_schemes_with_the_options_given_and_the_guard_around():
    registry, plugin = Registry(), Plugin()
    registry.register(plugin)
    volume = registry.open_volume("mine:disk", size_bytes=8192, block_size=512, create=True)
    save = registry.open_save_volume("mine:save", capacity_bytes=7, create=True)
    assert isinstance(volume, GuardedVolume)
    assert isinstance(save, GuardedSaveVolume)
    assert registry.open_transport("mine:there").url == "mine:there"
    assert plugin.opened == [
        ("mine:disk", VolumeOptions(size_bytes=8192, block_size=512, create=True)),
        ("mine:save", SaveVolumeOptions(capacity_bytes=7, create=True)),
    ]


@pytest.mark.requirement("U2")
def test_built_in_schemes_come_from_entry_points_when_a_url_needs_them():
    registry = default_registry()
    assert not registry._volumes
    registry.open_volume("memory:test-registry", size_bytes=4096, create=True)
    assert set(registry._volumes) == {"memory"}


def test_every_installed_scheme_is_listed():
    listing = {item.scheme: item for item in default_registry().schemes()}
    assert set(listing) >= {"file", "memory", "tcp", "local"}
    assert listing["file"].kinds == ("volume", "save volume")
    assert listing["file"].origin == "file"
    assert listing["file"].problem == ""


def test_a_plugin_that_cannot_be_imported_breaks_only_its_own_scheme(monkeypatch):
    def broken(**selection):
        def load():
            raise ImportError("no module named nonsense")

        found = [SimpleNamespace(name="nonsense", value="nonsense", load=load)]
        return found if selection.get("name") in {None, "nonsense"} else []

    monkeypatch.setattr("replkit.contracts.registry.entry_points", broken)
    registry = default_registry()
    registry.register(Plugin())
    registry.open_volume("mine:disk", size_bytes=4096)
    with pytest.raises(NotFoundError, match="no module named nonsense"):
        registry.open_volume("nonsense:disk")
    (problem,) = [item for item in registry.schemes() if item.problem]
    assert problem.scheme == "nonsense"


def test_a_second_plugin_for_a_scheme_is_refused_and_leaves_no_trace():
    registry, first = Registry(), Plugin()
    registry.register(first)
    with pytest.raises(AlreadyExistsError, match="mine"):
        registry.register(Plugin())
    registry.open_volume("mine:disk", size_bytes=4096)
    assert len(first.opened) == 1

    class Half(Plugin):
        """Its volumes would be new, its save volumes are not."""

        @hookimpl
        def replkit_register_volumes(self, registry):
            registry.add_volume_scheme("half", self.open_volume)

    with pytest.raises(AlreadyExistsError):
        registry.register(Half())
    with pytest.raises(NotFoundError):
        registry.open_volume("half:disk", size_bytes=4096)


def test_a_hook_that_does_not_exist_is_refused():
    class Wrong:
        @hookimpl
        def replkit_register_disks(self, registry):
            """No such hook."""

    with pytest.raises(InvalidArgumentError, match="replkit_register_disks"):
        Registry().register(Wrong())


def test_a_module_is_loaded_by_name_once(monkeypatch):
    module = ModuleType("replkit_test_plugin")
    calls = []

    @hookimpl
    def replkit_register_volumes(registry):
        calls.append(registry)

    module.replkit_register_volumes = replkit_register_volumes
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = default_registry([module.__name__, module.__name__])
    registry.load(module.__name__)
    assert calls == [registry]
    with pytest.raises(NotFoundError, match="no_such_module"):
        registry.load("no_such_module")


@pytest.mark.parametrize("url", ["", "disk", "/dev/sda", "UPPER:x", ":x"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InvalidArgumentError):
        default_registry().open_volume(url)


def test_an_unknown_scheme_is_refused_with_those_that_are_known():
    with pytest.raises(NotFoundError, match="memory"):
        default_registry().open_save_volume("unheard-of:x")


@pytest.mark.parametrize("scheme", ["", "Mine", "with space", "a:b", "1st"])
def test_a_scheme_that_no_url_can_have_is_refused(scheme):
    with pytest.raises(InvalidArgumentError):
        Registry().register(Plugin(scheme))


@pytest.mark.parametrize("options", [{"block_size": 0}, {"block_size": 256}, {"block_size": 4095}, {"size_bytes": -1}])
def test_options_are_checked_before_the_plugin_sees_them(options):
    registry, plugin = Registry(), Plugin()
    registry.register(plugin)
    with pytest.raises(InvalidArgumentError):
        registry.open_volume("mine:disk", **options)
    with pytest.raises(InvalidArgumentError):
        registry.open_save_volume("mine:save", producer=False, create=True)
    assert plugin.opened == []
