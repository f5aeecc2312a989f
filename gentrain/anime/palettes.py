"""The colours, RGB bytes. A palette is one choice of a factor: colours by the name that a layer asks for."""

Colour = tuple[int, int, int]
Palette = dict[str, Colour]

INK: Colour = (58, 34, 52)  # lashes, mouths: never black, which looks hard at 32 pixels
WHITE: Colour = (255, 255, 255)


def _hair(base: Colour, shade: Colour, line: Colour, light: Colour) -> Palette:
    return {"base": base, "shade": shade, "line": line, "light": light, "shadow": (150, 70, 90)}


HAIR: tuple[Palette, ...] = (
    _hair((250, 168, 194), (228, 124, 164), (150, 62, 108), (255, 218, 230)),  # pink
    _hair((218, 76, 72), (176, 46, 60), (100, 22, 44), (250, 148, 126)),  # red
    _hair((252, 216, 124), (230, 176, 84), (146, 96, 48), (255, 243, 196)),  # blond
    _hair((156, 100, 68), (116, 70, 54), (64, 36, 36), (206, 152, 110)),  # brown
    _hair((70, 66, 90), (46, 42, 66), (20, 18, 36), (128, 126, 164)),  # black
    _hair((216, 222, 236), (174, 182, 208), (94, 102, 136), (250, 252, 255)),  # silver
    _hair((96, 146, 228), (64, 106, 194), (30, 50, 116), (166, 206, 252)),  # blue
    _hair((86, 204, 198), (52, 162, 170), (20, 90, 108), (172, 240, 230)),  # teal
    _hair((164, 122, 218), (124, 84, 184), (68, 42, 114), (214, 182, 248)),  # violet
    _hair((138, 202, 114), (96, 162, 92), (44, 92, 60), (200, 238, 166)),  # green
)

SKIN: tuple[Palette, ...] = (
    {"skin": (255, 231, 217), "dark": (245, 194, 178), "edge": (176, 104, 98), "blush": (250, 138, 146)},
    {"skin": (252, 213, 184), "dark": (231, 172, 142), "edge": (156, 88, 70), "blush": (240, 116, 112)},
    {"skin": (219, 166, 128), "dark": (186, 126, 96), "edge": (112, 62, 52), "blush": (210, 92, 84)},
)

# An eye's colour also dresses its owner: collar and accessory take `cloth`, so that outfits match.
EYES: tuple[Palette, ...] = (
    {"deep": (28, 52, 140), "iris": (62, 118, 226), "glow": (146, 214, 255), "cloth": (62, 92, 176)},
    {"deep": (16, 90, 58), "iris": (48, 166, 94), "glow": (170, 240, 142), "cloth": (52, 128, 92)},
    {"deep": (130, 16, 38), "iris": (222, 52, 66), "glow": (255, 164, 138), "cloth": (206, 58, 70)},
    {"deep": (72, 30, 138), "iris": (140, 76, 222), "glow": (222, 168, 255), "cloth": (116, 76, 176)},
    {"deep": (150, 76, 8), "iris": (240, 160, 34), "glow": (255, 232, 120), "cloth": (236, 158, 56)},
    {"deep": (70, 34, 24), "iris": (140, 78, 46), "glow": (224, 162, 98), "cloth": (78, 84, 120)},
    {"deep": (8, 96, 122), "iris": (30, 186, 206), "glow": (164, 252, 240), "cloth": (58, 168, 186)},
    {"deep": (148, 22, 98), "iris": (236, 78, 158), "glow": (255, 182, 214), "cloth": (232, 104, 156)},
)

BACKGROUND: tuple[Palette, ...] = (
    {"top": (255, 188, 206), "bottom": (255, 222, 230), "mark": (255, 243, 247)},  # rose
    {"top": (255, 200, 164), "bottom": (255, 228, 208), "mark": (255, 246, 237)},  # peach
    {"top": (250, 230, 150), "bottom": (254, 243, 202), "mark": (255, 253, 240)},  # lemon
    {"top": (166, 226, 194), "bottom": (208, 243, 222), "mark": (240, 254, 246)},  # mint
    {"top": (164, 208, 250), "bottom": (206, 231, 255), "mark": (240, 248, 255)},  # sky
    {"top": (202, 184, 248), "bottom": (228, 217, 255), "mark": (248, 244, 255)},  # lavender
)
