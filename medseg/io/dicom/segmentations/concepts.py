"""Coded concepts of structures by their everyday names: what tells a viewer that segment 3 is a liver.

The codes are SNOMED CT's (coding scheme ``SCT``), as DICOM PS3.16 lists them in its context groups
(CID 7151 ff., property types; CID 7150, categories; CID 244, laterality).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from medseg.labels import CodedConcept, LabelClass

__all__ = ["PRIVATE_SCHEME", "SegmentConcepts", "concepts_of"]

PRIVATE_SCHEME = "99MEDSEG"
"""Coding scheme of names that the table does not know. DICOM keeps the prefix 99 for private schemes."""

_ANATOMICAL = CodedConcept("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
_TISSUE = CodedConcept("85756007", "SCT", "Tissue")
_SUBSTANCE = CodedConcept("91720002", "SCT", "Body Substance")
_LEFT = CodedConcept("7771000", "SCT", "Left")
_RIGHT = CodedConcept("24028007", "SCT", "Right")

_SIDE_WORDS = {"left": _LEFT, "l": _LEFT, "right": _RIGHT, "r": _RIGHT}
_LONGEST_PRIVATE_CODE = 16


@dataclass(frozen=True)
class SegmentConcepts:
    """How DICOM names what a segment holds.

    Attributes:
        category: What kind of thing it is (Segmented Property Category, CID 7150).
        type: What it is (Segmented Property Type).
        side: Left or right, where the name says so and the type does not (Laterality, CID 244).
    """

    category: CodedConcept
    type: CodedConcept
    side: CodedConcept | None = None

    @property
    def is_anatomical(self) -> bool:
        """Whether it is a part of a healthy body."""
        return self.category == _ANATOMICAL


def concepts_of(label: LabelClass) -> SegmentConcepts:
    """The concepts of a class: its own where it has one, else by its name.

    A name is found in the table whatever its case, order of words, underscores, number and side:
    ``"Kidneys"``, ``"kidney_left"`` and ``"Left kidney"`` are all kidneys. A name that is unknown becomes a
    private code that depends on the name alone.

    Example:
        >>> found = concepts_of(LabelClass(1, "kidney_left", (0, 0, 0)))
        >>> found.type.meaning, found.type.value, found.side.meaning
        ('Kidney', '64033007', 'Left')
        >>> concepts_of(LabelClass(1, "mystery", (0, 0, 0))).type.scheme
        '99MEDSEG'
    """
    words = _words(label.name)
    sides = [_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS]
    side = sides[0] if len(sides) == 1 else None
    bare = frozenset(word for word in words if word not in _SIDE_WORDS)
    known = _BY_WORDS.get(frozenset(words))
    if known is not None:
        side = None
    else:
        known = _BY_WORDS.get(bare)
    if label.concept is not None:
        of_concept = _BY_CODE.get((label.concept.scheme, label.concept.value), known)
        category = of_concept.category if of_concept else _ANATOMICAL
        own_side = side if known is None or known.type.value == label.concept.value else None
        return SegmentConcepts(category, label.concept, own_side)
    if known is not None:
        return SegmentConcepts(known.category, known.type, side)
    return SegmentConcepts(_ANATOMICAL, _private(label.name), side)


def _private(name: str) -> CodedConcept:
    # A code value has room for 16 characters only.
    code = hashlib.sha256(name.lower().encode()).hexdigest()[:_LONGEST_PRIVATE_CODE].upper()
    return CodedConcept(code, PRIVATE_SCHEME, name[:64])


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words in the singular; fillers such as "of" do not count."""
    split = re.findall(r"[a-z]+\d*|\d+", name.lower())
    return tuple(_singular(word) for word in split if word not in {"of", "the", "structure", "gland", "bone"})


_SINGULARS = {"metastases": "metastasis", "vertebrae": "vertebra", "ribs": "rib", "testes": "testis"}


def _singular(word: str) -> str:
    if word in _SINGULARS:
        return _SINGULARS[word]
    irregular = word.endswith(("ss", "us", "is", "as", "ns", "os"))
    return word[:-1] if len(word) > 3 and word.endswith("s") and not irregular else word


# name | other names : code
_ANATOMY = """
Liver: 10200004
Spleen: 78961009
Kidney: 64033007
Pancreas: 15776009
Gallbladder | gall bladder: 28231008
Stomach: 69695003
Duodenum: 38848004
Jejunum: 21306003
Ileum: 34516001
Small intestine | small bowel: 30315005
Large intestine | large bowel: 14742008
Colon: 71854001
Sigmoid colon: 60184004
Rectum: 34402009
Esophagus | oesophagus: 32849002
Urinary bladder | bladder: 89837001
Prostate: 41216001
Peripheral zone of the prostate | peripheral zone | prostate peripheral zone: 279706003
Transition zone of the prostate | transition zone | prostate transition zone: 399384005
Seminal vesicle: 64739004
Uterus: 35039007
Ovary: 15497006
Testis: 40689003
Placenta: 78067005
Adrenal gland: 23451007
Thyroid: 69748006
Pituitary: 56329008
Parotid gland: 45289007
Submandibular gland: 54019009
Lacrimal gland: 13561001
Breast: 76752008
Heart: 80891009
Left ventricle | heart ventricle left: 87878005
Right ventricle | heart ventricle right: 53085002
Left atrium | heart atrium left: 82471001
Right atrium | heart atrium right: 73829009
Left ventricle myocardium | heart myocardium | myocardium: 49848007
Pericardium: 76848001
Aorta: 15825003
Ascending aorta: 54247002
Descending aorta: 281130003
Abdominal aorta: 7832008
Inferior vena cava | postcava: 64131007
Superior vena cava: 48345005
Portal vein: 32764006
Splenic vein: 35819009
Hepatic vein: 8993003
Pulmonary artery: 81040000
Pulmonary vein: 122972007
Brachiocephalic trunk: 12691009
Brachiocephalic vein: 8887007
Common carotid artery: 32062004
Subclavian artery: 36765005
Common iliac artery | iliac artery: 73634005
Common iliac vein | iliac vein | iliac vena: 46027005
Lung: 39607008
Upper lobe of lung | lung upper lobe: 45653009
Middle lobe of right lung | lung middle lobe | lung middle lobe right: 72481006
Lower lobe of lung | lung lower lobe: 90572001
Trachea: 44567001
Bronchus: 955009
Pleura: 3120008
Mediastinum: 72410000
Brain: 12738006
Cerebral white matter: 68523003
Cerebral gray matter | cerebral grey matter: 40146001
White matter: 389080008
Gray matter | grey matter: 389081007
Frontal lobe: 83251001
Temporal lobe: 78277001
Parietal lobe: 16630005
Occipital lobe: 31065004
Hippocampus: 5366008
Amygdala: 4958002
Thalamus: 42695009
Caudate nucleus | caudate: 11000004
Putamen: 89278009
Globus pallidus | pallidum: 14738005
Nucleus accumbens | accumbens: 427667007
Substantia nigra: 70007007
Corpus callosum: 88442005
Brain stem | brainstem: 119238007
Cerebellum: 113305005
Lateral ventricle: 66720007
Third ventricle | 3rd ventricle: 49841001
Fourth ventricle | 4th ventricle: 35918002
Brain ventricle: 35764002
Optic nerve: 18234004
Optic chiasm: 244453006
Eyeball | eye: 79652003
Lens: 78076003
Larynx: 4596009
Pharynx: 54066008
Tongue: 21974007
Oral cavity: 74262004
Spinal cord: 2748008
Spinal canal: 61853006
Skull: 89546000
Mandible: 91609006
Maxilla: 70925003
Clavicle | clavicula: 51299004
Scapula: 79601000
Sternum: 56873002
Rib: 113197003
Costal cartilage: 50016007
Humerus: 85050009
Radius: 62413002
Ulna: 23416004
Ilium: 22356005
Hip: 29836001
Sacrum | vertebra s: 54735007
Femur: 71341001
Patella: 64234005
Tibia: 12611008
Fibula: 87342007
Talus: 67453005
Calcaneus: 80144004
Meniscus: 74135004
Vertebra: 51282000
Lymph node: 59441001
Erector spinae muscle | autochthon | erector spinae: 44947003
Organ: 91772007
"""
_TISSUES = """
Bone: 272673000
Skin: 39937001
Skeletal muscle | muscle: 127954009
Subcutaneous tissue | subcutaneous fat: 71966008
Soft tissue: 87784001
Cartilage: 309312004
Connective tissue: 21793004
Artery: 51114001
Vein: 29092000
Blood vessel | vessel: 59820001
"""
_ABNORMALITIES = """
Neoplasm | tumor | tumour | cancer: 108369006
Neoplasm, Primary | primary tumor | primary tumour | gtv: 372087000
Neoplasm, Secondary | metastasis: 14799000
Lesion: 52988006
Nodule: 27925004
Mass: 4147007
Cyst: 367643001
Edema | oedema: 79654002
Necrosis: 6574001
Hemorrhage | haemorrhage | bleeding: 50960005
Hematoma | haematoma: 35566002
Thrombus: 396339007
Aneurysm: 85659009
"""
_SUBSTANCES = """
Cerebrospinal fluid | csf: 65216001
Air: 15158005
"""
_VERTEBRAE = {
    "C": "14806007 39976000 113205007 5329002 36978003 36054005 87391001",
    "T": "64864005 53733008 1626008 73071006 56401006 45296009 "
    "62487009 11068009 82687006 7610001 12989004 23215003",
    "L": "66794005 14293000 36470004 11994002 49668003",
}


def _entries() -> Iterator[tuple[list[str], SegmentConcepts]]:
    for category, table in (
        (_ANATOMICAL, _ANATOMY),
        (_TISSUE, _TISSUES),
        (_ABNORMAL, _ABNORMALITIES),
        (_SUBSTANCE, _SUBSTANCES),
    ):
        for line in table.strip().splitlines():
            names, code = line.split(": ")
            meaning, *others = names.split(" | ")
            yield [meaning, *others], SegmentConcepts(category, CodedConcept(code, "SCT", meaning))
    for region, codes in _VERTEBRAE.items():
        for number, code in enumerate(codes.split(), start=1):
            meaning = f"{region}{number} vertebra"
            yield [meaning], SegmentConcepts(_ANATOMICAL, CodedConcept(code, "SCT", meaning))


_BY_WORDS = {frozenset(_words(name)): concepts for names, concepts in _entries() for name in names}
_BY_CODE = {(concepts.type.scheme, concepts.type.value): concepts for _, concepts in _entries()}
