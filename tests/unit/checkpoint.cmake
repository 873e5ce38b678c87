# Reading and writing weights.
imf_unit(test_json test_json.c)
imf_unit(test_checkpoint_safetensors test_checkpoint_safetensors.c)
imf_unit(test_checkpoint_torch test_checkpoint_torch.c)
imf_unit(test_spellings test_spellings.c)
imf_unit(test_checkpoint_places test_checkpoint_places.c)
imf_unit(test_synth test_synth.c)
imf_unit(test_npy test_npy.c)
imf_unit(test_checkpoint_hostile test_checkpoint_hostile.c)
