from edge_vision.params import BridgeParams
from edge_vision.places import engine_directory, spool_directory


def test_every_namespace_has_a_spool_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path))
    assert spool_directory(BridgeParams(), '/line1/left') != spool_directory(BridgeParams(), '/line1/right')
    assert spool_directory(BridgeParams(), '/').is_relative_to(tmp_path)
    assert spool_directory(BridgeParams(spool_directory='/data/spool'), '/x').as_posix() == '/data/spool'


def test_engines_are_in_the_directory_of_the_user_unless_one_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv('EDGE_VISION_ENGINE_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert engine_directory() == tmp_path / 'xdg' / 'edge_vision' / 'engines'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert engine_directory() == tmp_path / '.cache' / 'edge_vision' / 'engines'
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', '~/here')
    assert engine_directory() == tmp_path / 'here'
