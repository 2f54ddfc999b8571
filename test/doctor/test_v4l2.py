"""The kernel's header is the judge of layouts and numbers; no camera is needed for that."""

import errno
import shutil
import struct
import subprocess

import pytest

from edge_vision.doctor import v4l2

PROGRAM = r"""
#include <linux/videodev2.h>
#include <stdio.h>
#include <string.h>
static void put(unsigned request, const void *bytes, unsigned size) {
  printf("%u ", request);
  for (unsigned i = 0; i < size; i++) printf("%02x", ((const unsigned char *)bytes)[i]);
  puts("");
}
int main(void) {
  struct v4l2_capability c = {0};
  strcpy((char *)c.driver, "uvcvideo"); strcpy((char *)c.card, "HD Camera"); strcpy((char *)c.bus_info, "usb-1");
  c.capabilities = V4L2_CAP_DEVICE_CAPS | V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_META_CAPTURE;
  c.device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
  put(VIDIOC_QUERYCAP, &c, sizeof c);
  struct v4l2_fmtdesc f = {.index = 0, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .pixelformat = V4L2_PIX_FMT_MJPEG};
  strcpy((char *)f.description, "Motion-JPEG");
  put(VIDIOC_ENUM_FMT, &f, sizeof f);
  struct v4l2_frmsizeenum s = {.pixel_format = V4L2_PIX_FMT_MJPEG, .type = V4L2_FRMSIZE_TYPE_DISCRETE};
  s.discrete.width = 1280; s.discrete.height = 720;
  put(VIDIOC_ENUM_FRAMESIZES, &s, sizeof s);
  struct v4l2_frmivalenum i = {.pixel_format = V4L2_PIX_FMT_MJPEG, .width = 1280, .height = 720,
                               .type = V4L2_FRMIVAL_TYPE_DISCRETE};
  i.discrete.numerator = 1001; i.discrete.denominator = 30000;
  put(VIDIOC_ENUM_FRAMEINTERVALS, &i, sizeof i);
  return 0;
}
"""


class Answers:
    """Answers as a device does: what is asked for by index comes from lists, then EINVAL."""

    def __init__(self, capability, formats=(), sizes=(), rates=()):
        self.capability, self.formats, self.sizes, self.rates = capability, formats, sizes, rates

    def __call__(self, request, buffer):
        index = struct.unpack_from('=I', buffer)[0]
        if request == v4l2.QUERYCAP:
            answers, index = [self.capability], 0
        else:
            answers = {
                v4l2.ENUM_FMT: self.formats,
                v4l2.ENUM_FRAMESIZES: self.sizes,
                v4l2.ENUM_FRAMEINTERVALS: self.rates,
            }[request]
        if index >= len(answers):
            raise OSError(errno.EINVAL, 'Invalid argument')
        assert len(buffer) == len(answers[index])
        buffer[:] = answers[index]


def capability(bits=v4l2.CAPTURE, node=None):
    node = bits if node is None else node
    return v4l2.CAPABILITY.pack(b'uvcvideo', b'HD Camera', b'usb-1', 0, bits | v4l2.DEVICE_CAPS, node)


def pixel_format(fourcc):
    return v4l2.FMTDESC.pack(0, 1, 0, b'', int.from_bytes(fourcc.encode(), 'little'), 0)


def test_layouts_and_numbers_are_those_of_the_kernels_header(tmp_path):
    compiler = shutil.which('cc')
    if compiler is None:
        pytest.skip('there is no C compiler to read linux/videodev2.h with')
    (tmp_path / 'recorded.c').write_text(PROGRAM)
    subprocess.run([compiler, '-o', tmp_path / 'recorded', tmp_path / 'recorded.c'], check=True)
    output = subprocess.run([tmp_path / 'recorded'], check=True, capture_output=True, text=True).stdout
    recorded = {int(number): bytes.fromhex(raw) for number, raw in (line.split() for line in output.splitlines())}
    assert set(recorded) == {v4l2.QUERYCAP, v4l2.ENUM_FMT, v4l2.ENUM_FRAMESIZES, v4l2.ENUM_FRAMEINTERVALS}
    device = v4l2.describe(
        Answers(
            recorded[v4l2.QUERYCAP],
            [recorded[v4l2.ENUM_FMT]],
            [recorded[v4l2.ENUM_FRAMESIZES]],
            [recorded[v4l2.ENUM_FRAMEINTERVALS]],
        )
    )
    size = v4l2.Size(1280, 720, (29.97,))
    assert device == v4l2.Device('HD Camera', 'uvcvideo', 'usb-1', True, (v4l2.Format('MJPG', (size,)),))


def test_largest_sizes_and_fastest_rates_come_first():
    sizes = [v4l2.FRMSIZE.pack(0, 0, 1, w, h, 0, 0, 0, 0) for w, h in ((640, 480), (1920, 1080), (320, 240))]
    rates = [v4l2.FRMIVAL.pack(0, 0, 0, 0, 1, 1, hertz, 0, 0, 0, 0) for hertz in (15, 30)]
    (offered,) = v4l2.describe(Answers(capability(), [pixel_format('YUYV')], sizes, rates)).formats
    assert [(s.width, s.height) for s in offered.sizes] == [(1920, 1080), (640, 480), (320, 240)]
    assert offered.sizes[0].rates == (30.0, 15.0)


def test_a_range_of_sizes_is_told_by_its_ends():
    sizes = [v4l2.FRMSIZE.pack(0, 0, 3, 48, 4096, 2, 32, 3072, 2)]
    rates = [v4l2.FRMIVAL.pack(0, 0, 0, 0, 3, 1, 120, 1, 1, 0, 0)]
    (offered,) = v4l2.describe(Answers(capability(), [pixel_format('YU12')], sizes, rates)).formats
    assert offered == v4l2.Format(
        'YU12', (v4l2.Size(4096, 3072, (120.0, 1.0)), v4l2.Size(48, 32, (120.0, 1.0))), ranged=True
    )


@pytest.mark.parametrize(
    ('bits', 'node', 'captures'),
    [
        (v4l2.CAPTURE, None, True),
        (v4l2.CAPTURE_MPLANE, None, True),
        (v4l2.CAPTURE, 0x00800000, False),  # the node of a camera that gives metadata
        (0x2, None, False),  # an output
    ],
    ids=['camera', 'several planes', 'metadata', 'output'],
)
def test_only_nodes_that_give_pictures_capture(bits, node, captures):
    assert v4l2.describe(Answers(capability(bits, node))).captures is captures


def test_a_driver_that_never_ends_its_list_is_left():
    class Endless(list):
        def __len__(self):
            return 1 << 30

        def __getitem__(self, _):
            return pixel_format('YUYV')

    assert len(v4l2.describe(Answers(capability(), Endless())).formats) == v4l2.MOST


@pytest.mark.parametrize('path', ['/dev/null', 'file'])
def test_what_is_no_camera_is_told_apart(path, tmp_path):
    (tmp_path / 'file').write_bytes(b'no camera')
    with pytest.raises(OSError, match='Inappropriate ioctl') as info:
        v4l2.ask(str(tmp_path / path))
    assert v4l2.is_other_thing(info.value)
